{{ config(meta={'dagster': {'ref': {'name': 'item_transitions'}}}) }}

-- A history of n items has n - 1 steps.
with

transitions as (

    select coalesce(sum(n), 0) as steps from {{ ref('item_transitions') }}

),

histories as (

    select count(*) - count(distinct user_id) as steps from {{ ref('user_histories') }}

)

select
    transitions.steps as counted,
    histories.steps as expected
from transitions
cross join histories
where transitions.steps <> histories.steps
