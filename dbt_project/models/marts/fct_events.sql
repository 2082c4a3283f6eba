{{ config(materialized='incremental', incremental_strategy='event_window', on_schema_change='fail') }}

{%- set start = window_start() %}

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
    -- Nothing arrives before it happened, so no earlier day holds an event of the window.
    where arrival_date >= {{ start }}
    {%- endif %}

),

first_deliveries as (

    select * from deliveries
    where
        delivery = 1
        and {{ in_event_window('event_date') }}
        {%- if start %}
        -- Sent again with another time, an event may have arrived before the window begins: only its id is read there.
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
