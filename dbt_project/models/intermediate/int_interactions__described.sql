with

interactions as (

    select * from {{ ref('int_events__interactions') }}

),

versions as (

    select * from {{ ref('int_items__versions') }}

),

described as (

    select
        interactions.event_id,
        interactions.user_id,
        interactions.item_id,
        interactions.event_ts,
        interactions.event_date,
        interactions.arrival_date,
        interactions.known_date,
        versions.category,
        {{ exact_amount('versions.price') }} as price
    from interactions
    left join versions
        on interactions.item_id = versions.item_id
        and interactions.event_ts >= versions.holds_from
        and interactions.event_ts < versions.holds_to

)

select * from described
