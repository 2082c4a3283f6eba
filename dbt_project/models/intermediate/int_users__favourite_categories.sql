with

described_interactions as (

    select * from {{ ref('int_interactions__described') }}

),

arrived as (

    select
        user_id,
        category,
        known_date,
        count(*) as interactions
    from described_interactions
    where category is not null
    group by user_id, category, known_date

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

final as (

    select
        user_id,
        known_date,
        min(category) over (partition by user_id, highest order by known_date) as favourite_category
    from leaders

)

select * from final
