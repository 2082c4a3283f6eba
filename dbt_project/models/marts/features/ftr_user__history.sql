with

events as (

    select * from {{ ref('fct_events') }}

),

history as (

    select * from {{ ref('int_users__history_versions') }}

),

days as (

    select distinct
        user_id,
        {{ known_date() }} as known_date
    from events

),

known as (

    select
        days.user_id,
        days.known_date,
        history.item_id,
        history.event_type,
        history.event_ts,
        history.event_rank,
        row_number() over (
            partition by days.user_id, days.known_date
            order by history.event_rank desc
        ) as rank_from_last
    from days
    inner join history
        on days.user_id = history.user_id
        and history.known_from <= days.known_date
        and (history.known_until is null or history.known_until > days.known_date)

),

lengths as (

    select
        user_id,
        known_date,
        count(*) as history_length
    from known
    group by user_id, known_date

),

recent as (

    select
        user_id,
        known_date,
        {{ array_of('item_id', 'event_rank') }} as recent_items,
        {{ array_of('event_type', 'event_rank') }} as recent_types,
        {{ array_of(epoch_ms('event_ts'), 'event_rank') }} as recent_ts
    from known
    where rank_from_last <= {{ var('history_length') }}
    group by user_id, known_date

),

final as (

    select
        days.user_id,
        {{ end_of_day('days.known_date') }} as event_timestamp,
        {{ end_of_day('days.known_date') }} as created_timestamp,
        coalesce(recent.recent_items, {{ empty_array('varchar') }}) as recent_items,
        coalesce(recent.recent_types, {{ empty_array('varchar') }}) as recent_types,
        coalesce(recent.recent_ts, {{ empty_array('bigint') }}) as recent_ts,
        coalesce(lengths.history_length, 0) as history_length
    from days
    left join recent
        on days.user_id = recent.user_id
        and days.known_date = recent.known_date
    left join lengths
        on days.user_id = lengths.user_id
        and days.known_date = lengths.known_date

)

select * from final
