{{ config(materialized='incremental', incremental_strategy='event_window', on_schema_change='fail') }}

with

events as (

    select * from {{ ref('fct_events') }}
    where {{ in_event_window('event_date') }}

),

final as (

    select
        user_id,
        event_date,
        {{ event_type_counts() }},
        count(distinct case when {{ is_interaction() }} then item_id end) as items,
        count(distinct session_id) as sessions
    from events
    group by user_id, event_date

)

select * from final
