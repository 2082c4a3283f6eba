{{ config(materialized='incremental', incremental_strategy='known_window', on_schema_change='fail') }}

with

arrived as (

    select
        user_id,
        category,
        {{ not_before_the_eve('known_date') }} as known_date,
        sum(interactions) as interactions
    from {{ ref('int_users__category_arrivals') }}
    {%- if window_day('known_from') %}
    where user_id in (select user_id from {{ ref('int_users__category_arrivals') }} where {{ known_in_window() }})
    {%- endif %}
    group by user_id, category, {{ not_before_the_eve('known_date') }}

),

so_far as (

    select
        user_id,
        category,
        known_date,
        sum(interactions) over (partition by user_id, category order by known_date) as interactions
    from arrived

),

-- Counts only grow, so the highest count of all days so far is today's highest, and every category that has it
-- stands among those rows, even where it had no interaction today.
compared as (

    select
        *,
        max(interactions) over (partition by user_id order by known_date) as highest
    from so_far

),

leaders as (

    select
        user_id,
        known_date,
        highest,
        min(category) as category
    from compared
    where interactions = highest
    group by user_id, known_date, highest

),

favourites as (

    select
        user_id,
        known_date,
        min(category) over (partition by user_id, highest order by known_date) as favourite_category
    from leaders

),

final as (

    select * from favourites
    where {{ known_in_window() }}

)

select * from final
