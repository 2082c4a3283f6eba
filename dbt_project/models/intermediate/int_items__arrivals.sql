{{ config(materialized='incremental', incremental_strategy='known_window', on_schema_change='fail') }}

with

events as (

    select * from {{ ref('fct_events') }}

),

counted as (

    select
        item_id,
        event_date,
        {{ known_date() }} as known_date,
        count(case when event_type = 'impression' then 1 end) as impressions,
        count(case when event_type = 'view' then 1 end) as views,
        count(case when event_type = 'purchase' then 1 end) as purchases,
        count(case when {{ is_interaction() }} then 1 end) as interactions,
        min(event_ts) as first_event_ts
    from events
    where
        item_id is not null
        and {{ event_known_in_window() }}
    group by item_id, event_date, {{ known_date() }}

)

select * from counted
