{{ config(materialized='incremental', incremental_strategy='known_window', on_schema_change='fail') }}

with

events as (

    select * from {{ ref('fct_events') }}
    where {{ event_known_in_window() }}

),

described_interactions as (

    select * from {{ ref('int_interactions__described') }}
    where {{ event_known_in_window() }}

),

counted as (

    select
        user_id,
        event_date,
        {{ known_date() }} as known_date,
        count(*) as events,
        count(case when event_type = 'view' then 1 end) as views,
        count(case when event_type = 'cart' then 1 end) as carts,
        count(case when event_type = 'purchase' then 1 end) as purchases,
        min(event_ts) as first_event_ts,
        max(event_ts) as last_event_ts
    from events
    group by user_id, event_date, {{ known_date() }}

),

interacted as (

    select
        user_id,
        event_date,
        known_date,
        count(*) as interactions,
        count(price) as priced,
        coalesce(sum(price), 0) as price_sum,
        max(event_ts) as last_interaction_ts
    from described_interactions
    group by user_id, event_date, known_date

),

joined as (

    select
        counted.user_id,
        counted.event_date,
        counted.known_date,
        counted.events,
        counted.views,
        counted.carts,
        counted.purchases,
        coalesce(interacted.interactions, 0) as interactions,
        coalesce(interacted.priced, 0) as priced,
        coalesce(interacted.price_sum, 0) as price_sum,
        counted.first_event_ts,
        counted.last_event_ts,
        interacted.last_interaction_ts
    from counted
    left join interacted
        on counted.user_id = interacted.user_id
        and counted.event_date = interacted.event_date
        and counted.known_date = interacted.known_date

)

select * from joined
