with

events as (

    select * from {{ ref('fct_events') }}

),

versions as (

    select * from {{ ref('int_users__history_versions') }}

),

days as (

    select distinct
        user_id,
        {{ known_date() }} as known_date
    from events

),

-- One array a user, and not one a user and day: a day's history is filtered from it, row by row, in little memory.
histories as (

    select
        user_id,
        {{ array_of(
            record({
                'item_id': 'item_id',
                'event_type': 'event_type',
                'ts': epoch_ms('event_ts'),
                'known_from': 'known_from',
                'known_until': 'known_until',
            }),
            'event_rank'
        ) }} as entries
    from versions
    group by user_id

),

known as (

    select
        days.user_id,
        days.known_date,
        {{ filter_array(
            'histories.entries',
            'entry.known_from <= days.known_date '
            ~ 'and (entry.known_until is null or entry.known_until > days.known_date)',
            'entry'
        ) }} as entries
    from days
    left join histories on days.user_id = histories.user_id

),

recent as (

    select
        user_id,
        known_date,
        {{ array_length('entries') }} as history_length,
        {{ last_elements('entries', var('history_length')) }} as entries
    from known

),

final as (

    select
        user_id,
        {{ end_of_day('known_date') }} as event_timestamp,
        {{ end_of_day('known_date') }} as created_timestamp,
        coalesce({{ map_array('entries', 'entry.item_id', 'entry') }}, {{ empty_array('varchar') }}) as recent_items,
        coalesce({{ map_array('entries', 'entry.event_type', 'entry') }}, {{ empty_array('varchar') }}) as recent_types,
        coalesce({{ map_array('entries', 'entry.ts', 'entry') }}, {{ empty_array('bigint') }}) as recent_ts,
        coalesce(history_length, 0) as history_length
    from recent

)

select * from final
