{{ config(materialized='incremental', incremental_strategy='feature_window', on_schema_change='fail') }}

with

days as (

    select distinct
        user_id,
        known_date
    from {{ ref('int_users__arrivals') }}
    where {{ known_in_window() }}

),

spans as (

    select * from {{ ref('int_users__history_spans') }}
    {%- if window_day('known_from') %}
    where user_id in (select user_id from {{ ref('int_users__arrivals') }} where {{ known_in_window() }})
    {%- endif %}

),

entries as (

    select
        user_id,
        item_id,
        event_type,
        event_ts,
        {{ not_before_the_eve('known_date') }} as known_from,
        known_until,
        row_number() over (partition by user_id order by {{ event_order() }}) as place
    from spans
    {%- if window_day('known_from') %}
    where known_until is null or {{ known_in_window('known_until') }}
    {%- endif %}

),

changes as (

    select user_id, known_from as known_date, 1 as entries, place, false as is_wanted from entries
    union all
    select user_id, known_until as known_date, -1 as entries, 0 as place, false as is_wanted from entries
    where known_until is not null
    union all
    select user_id, known_date, 0 as entries, 0 as place, true as is_wanted from days

),

daily as (

    select
        user_id,
        known_date,
        sum(entries) as entries,
        max(place) as place,
        max(is_wanted) as is_wanted
    from changes
    group by user_id, known_date

),

-- How many entries are known at the end of a day, and the last place where one may be.
reached as (

    select
        user_id,
        known_date,
        is_wanted,
        cast(sum(entries) over so_far as bigint) as history_length,
        cast(max(place) over so_far as bigint) as last_place
    from daily
    window so_far as (partition by user_id order by known_date)

),

-- One array a user, and not one a user and day.
histories as (

    select
        user_id,
        {{ sorted_array_of(record({
            'place': 'place',
            'item_id': 'item_id',
            'event_type': 'event_type',
            'ts': epoch_ms('event_ts'),
            'known_from': 'known_from',
            'known_until': 'known_until',
        })) }} as entries
    from entries
    group by user_id

),

-- A day's history is the end of what its user's array holds up to the last place. Where an event before that place
-- arrives later, or was replaced, the end reaches back as many places further, and is cleared of those.
recent as (

    select
        reached.user_id,
        reached.known_date,
        reached.history_length,
        case
            when reached.last_place = reached.history_length then
                {{ slice_array(
                    'histories.entries',
                    'reached.last_place - ' ~ (var('history_length') - 1),
                    'reached.last_place'
                ) }}
            else
                {{ last_elements(
                    filter_array(
                        slice_array(
                            'histories.entries',
                            'reached.history_length - ' ~ (var('history_length') - 1),
                            'reached.last_place'
                        ),
                        'entry.known_from <= reached.known_date '
                        ~ 'and (entry.known_until is null or entry.known_until > reached.known_date)',
                        'entry'
                    ),
                    var('history_length')
                ) }}
        end as entries
    from reached
    left join histories on reached.user_id = histories.user_id
    where reached.is_wanted

),

final as (

    select
        user_id,
        {{ end_of_day('known_date') }} as event_timestamp,
        {{ end_of_day('known_date') }} as created_timestamp,
        coalesce({{ map_array('entries', 'entry.item_id', 'entry') }}, {{ empty_array('varchar') }}) as recent_items,
        coalesce({{ map_array('entries', 'entry.event_type', 'entry') }}, {{ empty_array('varchar') }}) as recent_types,
        coalesce({{ map_array('entries', 'entry.ts', 'entry') }}, {{ empty_array('bigint') }}) as recent_ts,
        history_length
    from recent

)

select * from final
