{%- set windows = {
    7: ['impressions', 'views', 'interactions'],
    30: ['views', 'interactions', 'purchases'],
} -%}

{{ config(materialized='incremental', incremental_strategy='feature_window', on_schema_change='fail') }}

{%- set since = window_day('known_from') %}

with

-- Cells that count on some day of the window, or have a day in it.
arrivals as (

    select * from {{ ref('int_items__arrivals') }}
    {%- if since %}
    where event_date > {{ add_days(since, -30) }} or {{ known_in_window() }}
    {%- endif %}

),

audiences as (

    select * from {{ ref('int_items__audiences') }}
    where {{ known_in_window() }}

),

versions as (

    select * from {{ ref('int_items__versions') }}

),

rolling as (

    {{ rolling_counts('arrivals', 'item_id', windows) }}

),

days as (

    select
        item_id,
        {{ not_before_the_eve('known_date') }} as known_date,
        min(first_event_ts) as first_event_ts
    from {{ ref('int_items__arrivals') }}
    group by item_id, {{ not_before_the_eve('known_date') }}

),

known as (

    select
        item_id,
        known_date,
        {{ end_of_day('known_date') }} as known_at,
        min(first_event_ts) over (partition by item_id order by known_date) as first_event_ts
    from days

),

final as (

    select
        known.item_id,
        known.known_at as event_timestamp,
        known.known_at as created_timestamp,
        cast(rolling.impressions_7d as bigint) as impressions_7d,
        cast(rolling.views_7d as bigint) as views_7d,
        cast(rolling.interactions_7d as bigint) as interactions_7d,
        cast(rolling.interactions_30d as bigint) as interactions_30d,
        cast(rolling.purchases_30d as bigint) as purchases_30d,
        audiences.users_30d,
        cast(rolling.purchases_30d as double) / nullif(rolling.views_30d, 0) as conversion_30d,
        {{ days_between('least(known.first_event_ts, coalesce(versions.launched_at, known.first_event_ts))', 'known.known_at') }} as age_days,
        versions.price
    from known
    inner join rolling
        on known.item_id = rolling.item_id
        and known.known_date = rolling.day
    inner join audiences
        on known.item_id = audiences.item_id
        and known.known_date = audiences.known_date
    left join versions
        on known.item_id = versions.item_id
        and known.known_at > versions.holds_from
        and known.known_at <= versions.holds_to

)

select * from final
