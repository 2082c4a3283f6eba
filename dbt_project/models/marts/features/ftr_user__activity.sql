{%- set windows = {
    1: ['events'],
    7: ['events', 'interactions'],
    30: ['interactions', 'views', 'carts', 'purchases', 'priced', 'price_sum'],
} -%}

with

arrivals as (

    select * from {{ ref('int_users__arrivals') }}

),

favourites as (

    select * from {{ ref('int_users__favourite_categories') }}

),

rolling as (

    {{ rolling_counts('arrivals', 'user_id', windows) }}

),

days as (

    select
        user_id,
        known_date,
        min(first_event_ts) as first_event_ts,
        max(last_interaction_ts) as last_interaction_ts
    from arrivals
    group by user_id, known_date

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

)

select * from final
