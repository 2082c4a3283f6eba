with

events as (

    select * from {{ ref('fct_events') }}

),

history as (

    select * from {{ ref('int_users__history_versions') }}

),

arrival_days as (

    select distinct
        user_id,
        arrival_date
    from events

),

known as (

    select
        arrival_days.user_id,
        arrival_days.arrival_date,
        history.item_id,
        history.event_type,
        history.event_ts,
        history.event_rank,
        row_number() over (
            partition by arrival_days.user_id, arrival_days.arrival_date
            order by history.event_rank desc
        ) as rank_from_last
    from arrival_days
    inner join history
        on arrival_days.user_id = history.user_id
        and history.known_from <= arrival_days.arrival_date
        and (history.known_until is null or history.known_until > arrival_days.arrival_date)

),

lengths as (

    select
        user_id,
        arrival_date,
        count(*) as history_length
    from known
    group by user_id, arrival_date

),

recent as (

    select
        user_id,
        arrival_date,
        {{ array_of('item_id', 'event_rank') }} as recent_items,
        {{ array_of('event_type', 'event_rank') }} as recent_types,
        {{ array_of(epoch_ms('event_ts'), 'event_rank') }} as recent_ts
    from known
    where rank_from_last <= {{ var('history_length') }}
    group by user_id, arrival_date

),

final as (

    select
        arrival_days.user_id,
        {{ end_of_day('arrival_days.arrival_date') }} as event_timestamp,
        {{ end_of_day('arrival_days.arrival_date') }} as created_timestamp,
        coalesce(recent.recent_items, {{ empty_array('varchar') }}) as recent_items,
        coalesce(recent.recent_types, {{ empty_array('varchar') }}) as recent_types,
        coalesce(recent.recent_ts, {{ empty_array('bigint') }}) as recent_ts,
        coalesce(lengths.history_length, 0) as history_length
    from arrival_days
    left join recent
        on arrival_days.user_id = recent.user_id
        and arrival_days.arrival_date = recent.arrival_date
    left join lengths
        on arrival_days.user_id = lengths.user_id
        and arrival_days.arrival_date = lengths.arrival_date

)

select * from final
