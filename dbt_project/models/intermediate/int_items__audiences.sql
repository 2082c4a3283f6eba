{{ config(materialized='incremental', incremental_strategy='known_window', on_schema_change='fail') }}

{%- set since = window_day('known_from') %}

with

-- A user belongs to an item's audience from the day on which an interaction is known until 30 days after its date.
spans as (

    select
        item_id,
        user_id,
        {{ not_before_the_eve('known_date') }} as starts,
        {{ add_days('event_date', 30) }} as ends
    from {{ ref('int_events__interactions') }}
    where
        {{ add_days('event_date', 30) }} > known_date
        {%- if since %}
        and event_date > {{ add_days(since, -30) }}
        {%- endif %}

),

pairs as (

    select
        item_id,
        user_id,
        min(starts) as starts,
        max(ends) as ends,
        max(starts) > min(ends) as may_have_gaps
    from spans
    group by item_id, user_id

),

gapped as (

    select
        spans.item_id,
        spans.user_id,
        spans.starts,
        max(spans.ends) as ends
    from spans
    inner join pairs
        on spans.item_id = pairs.item_id
        and spans.user_id = pairs.user_id
    where pairs.may_have_gaps
    group by spans.item_id, spans.user_id, spans.starts

),

compared as (

    select
        *,
        max(ends) over (
            partition by item_id, user_id
            order by starts
            rows between unbounded preceding and 1 preceding
        ) as ends_before
    from gapped

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

    select item_id, starts, ends from pairs
    where not may_have_gaps
    union all
    select
        item_id,
        min(starts) as starts,
        max(ends) as ends
    from numbered
    group by item_id, user_id, stay

),

changes as (

    select item_id, starts as day, 1 as users, false as is_wanted from stays
    union all
    select item_id, ends as day, -1 as users, false as is_wanted from stays
    union all
    select item_id, known_date as day, 0 as users, true as is_wanted from {{ ref('int_items__arrivals') }}
    where {{ known_in_window() }}

),

daily as (

    select
        item_id,
        day,
        sum(users) as users,
        max(is_wanted) as is_wanted
    from changes
    group by item_id, day

),

running as (

    select
        item_id,
        day as known_date,
        is_wanted,
        cast(sum(users) over (partition by item_id order by day) as bigint) as users_30d
    from daily

),

final as (

    select
        item_id,
        known_date,
        users_30d
    from running
    where is_wanted

)

select * from final
