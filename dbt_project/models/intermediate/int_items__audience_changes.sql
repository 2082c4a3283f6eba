with

interactions as (

    select * from {{ ref('int_events__interactions') }}

),

-- A user belongs to an item's audience from the day on which an interaction is known until 30 days after its date.
spans as (

    select
        item_id,
        user_id,
        known_date as starts,
        max({{ add_days('event_date', 30) }}) as ends
    from interactions
    where {{ add_days('event_date', 30) }} > known_date
    group by item_id, user_id, known_date

),

compared as (

    select
        *,
        max(ends) over (
            partition by item_id, user_id
            order by starts
            rows between unbounded preceding and 1 preceding
        ) as ends_before
    from spans

),

-- Overlapping spans are one stay, or a user would count once per interaction.
numbered as (

    select
        *,
        sum(case when starts <= ends_before then 0 else 1 end) over (
            partition by item_id, user_id
            order by starts
        ) as stay
    from compared

),

stays as (

    select
        item_id,
        min(starts) as starts,
        max(ends) as ends
    from numbered
    group by item_id, user_id, stay

),

changes as (

    select item_id, starts as day, 1 as users from stays
    union all
    select item_id, ends as day, -1 as users from stays

),

final as (

    select
        item_id,
        day,
        sum(users) as users_30d
    from changes
    group by item_id, day

)

select * from final
