{{ config(materialized='incremental', incremental_strategy='known_window', on_schema_change='fail') }}

with

described_interactions as (

    select * from {{ ref('int_interactions__described') }}
    where
        category is not null
        and {{ event_known_in_window() }}

),

counted as (

    select
        user_id,
        category,
        known_date,
        count(*) as interactions
    from described_interactions
    group by user_id, category, known_date

)

select * from counted
