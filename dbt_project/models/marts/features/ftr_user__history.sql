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

-- A history changes on the days on which versions begin, and on most days of a user none does.
changed_days as (

    select distinct
        user_id,
        known_from as changed_on
    from history

),

known as (

    select
        changed_days.user_id,
        changed_days.changed_on,
        history.item_id,
        history.event_type,
        history.event_ts,
        history.event_rank,
        row_number() over (
            partition by changed_days.user_id, changed_days.changed_on
            order by history.event_rank desc
        ) as rank_from_last,
        count(*) over (partition by changed_days.user_id, changed_days.changed_on) as history_length
    from changed_days
    inner join history
        on changed_days.user_id = history.user_id
        and history.known_from <= changed_days.changed_on
        and (history.known_until is null or history.known_until > changed_days.changed_on)

),

states as (

    select
        user_id,
        changed_on,
        {{ array_of('item_id', 'event_rank') }} as recent_items,
        {{ array_of('event_type', 'event_rank') }} as recent_types,
        {{ array_of(epoch_ms('event_ts'), 'event_rank') }} as recent_ts,
        max(history_length) as history_length
    from known
    where rank_from_last <= {{ var('history_length') }}
    group by user_id, changed_on

),

dated as (

    select
        days.user_id,
        days.known_date,
        max(changed_days.changed_on) over (
            partition by days.user_id
            order by days.known_date
        ) as changed_on
    from days
    left join changed_days
        on days.user_id = changed_days.user_id
        and days.known_date = changed_days.changed_on

),

final as (

    select
        dated.user_id,
        {{ end_of_day('dated.known_date') }} as event_timestamp,
        {{ end_of_day('dated.known_date') }} as created_timestamp,
        coalesce(states.recent_items, {{ empty_array('varchar') }}) as recent_items,
        coalesce(states.recent_types, {{ empty_array('varchar') }}) as recent_types,
        coalesce(states.recent_ts, {{ empty_array('bigint') }}) as recent_ts,
        coalesce(states.history_length, 0) as history_length
    from dated
    left join states
        on dated.user_id = states.user_id
        and dated.changed_on = states.changed_on

)

select * from final
