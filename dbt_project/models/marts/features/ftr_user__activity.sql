{%- set windows = {
    1: ['events'],
    7: ['events', 'interactions'],
    30: ['interactions', 'views', 'carts', 'purchases', 'priced', 'price_sum'],
} -%}

{{ config(materialized='incremental', incremental_strategy='feature_window', on_schema_change='fail') }}

{%- set since = window_day('known_from') %}

with

{% if since -%}
-- The others have no row to redo.
active as (

    select distinct user_id from {{ ref('int_users__arrivals') }}
    where {{ known_in_window() }}

),

{% endif -%}
-- Cells that count on some day of the window, or have a day in it.
arrivals as (

    select * from {{ ref('int_users__arrivals') }}
    {%- if since %}
    where
        (event_date > {{ add_days(since, -30) }} or {{ known_in_window() }})
        and user_id in (select user_id from active)
    {%- endif %}

),

favourites as (

    select
        user_id,
        {{ not_before_the_eve('known_date') }} as known_date,
        {{ value_at_latest('favourite_category', 'known_date') }} as favourite_category
    from {{ ref('int_users__favourite_categories') }}
    {%- if since %}
    where user_id in (select user_id from active)
    {%- endif %}
    group by user_id, {{ not_before_the_eve('known_date') }}

),

rolling as (

    {{ rolling_counts('arrivals', 'user_id', windows) }}

),

days as (

    select
        user_id,
        {{ not_before_the_eve('known_date') }} as known_date,
        min(first_event_ts) as first_event_ts,
        max(last_interaction_ts) as last_interaction_ts
    from {{ ref('int_users__arrivals') }}
    {%- if since %}
    where user_id in (select user_id from active)
    {%- endif %}
    group by user_id, {{ not_before_the_eve('known_date') }}

),

known as (

    select
        days.user_id,
        days.known_date,
        {{ end_of_day('days.known_date') }} as known_at,
        min(days.first_event_ts) over so_far as first_event_ts,
        max(days.last_interaction_ts) over so_far as last_interaction_ts,
        last_value(favourites.favourite_category ignore nulls) over so_far as favourite_category
    from days
    left join favourites
        on days.user_id = favourites.user_id
        and days.known_date = favourites.known_date
    window so_far as (partition by days.user_id order by days.known_date)

),

final as (

    select
        known.user_id,
        known.known_at as event_timestamp,
        known.known_at as created_timestamp,
        cast(rolling.events_1d as bigint) as events_1d,
        cast(rolling.events_7d as bigint) as events_7d,
        cast(rolling.interactions_7d as bigint) as interactions_7d,
        cast(rolling.interactions_30d as bigint) as interactions_30d,
        cast(rolling.views_30d as bigint) as views_30d,
        cast(rolling.carts_30d as bigint) as carts_30d,
        cast(rolling.purchases_30d as bigint) as purchases_30d,
        {{ days_between('known.last_interaction_ts', 'known.known_at') }} as days_since_last,
        {{ days_between('known.first_event_ts', 'known.known_at') }} as tenure_days,
        known.favourite_category,
        cast(rolling.price_sum_30d as double) / nullif(rolling.priced_30d, 0) as mean_price_30d
    from known
    inner join rolling
        on known.user_id = rolling.user_id
        and known.known_date = rolling.day
    where {{ known_in_window('known.known_date') }}

)

select * from final
