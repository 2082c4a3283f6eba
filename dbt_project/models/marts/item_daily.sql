{{ config(materialized='incremental', incremental_strategy='event_window', on_schema_change='fail') }}

with

events as (

    select * from {{ ref('fct_events') }}
    where
        item_id is not null
        and {{ in_event_window('event_date') }}

),

final as (

    select
        item_id,
        event_date,
        {{ event_type_counts() }},
        count(distinct case when {{ is_interaction() }} then user_id end) as users,
        cast(sum({{ exact_amount('value') }}) as double) as value_sum
    from events
    group by item_id, event_date

)

select * from final
