{{ config(meta={'dagster': {'ref': {'name': 'item_daily'}}}) }}

-- A window that was rebuilt here and not there would show as a date with another total.
with

days as (

    select
        event_date,
        sum(impressions + views + clicks + carts + purchases + ratings + other) as events
    from {{ ref('item_daily') }}
    group by event_date

),

events as (

    select
        event_date,
        count(*) as events
    from {{ ref('fct_events') }}
    where item_id is not null
    group by event_date

)

select
    coalesce(days.event_date, events.event_date) as event_date,
    days.events as counted,
    events.events as expected
from days
full outer join events
    on days.event_date = events.event_date
where coalesce(days.events, 0) <> coalesce(events.events, 0)
