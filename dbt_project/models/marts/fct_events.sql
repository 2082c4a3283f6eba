{{ config(materialized='incremental', incremental_strategy='event_window', on_schema_change='fail') }}

{#- No earlier lake day holds an event of the window: nothing arrives before it happened, except that clocks may run
    ahead and put an event in the file of the day before. -#}
{%- set start = add_days(window_start(), -1) if window_start() else none %}

with

events as (

    select * from {{ ref('stg_lake__events') }}

),

deliveries as (

    select
        *,
        row_number() over (partition by event_id order by arrival_date, source_file, source_row) as delivery
    from events
    {%- if start %}
    where arrival_date >= {{ start }}
    {%- endif %}

),

first_deliveries as (

    select * from deliveries
    where
        delivery = 1
        and {{ in_event_window('event_date') }}
        {%- if start %}
        -- Sent again with another time, an event may have arrived even earlier: of those days only the ids are read.
        and event_id not in (select event_id from events where arrival_date < {{ start }})
        {%- endif %}

),

final as (

    select
        event_id,
        user_id,
        item_id,
        event_type,
        event_ts,
        event_date,
        session_id,
        value,
        query,
        position,
        arrival_date,
        source,
        source_file,
        source_row
    from first_deliveries

)

select * from final
