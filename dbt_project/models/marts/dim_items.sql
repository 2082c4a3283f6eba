with

versions as (

    select * from {{ ref('int_items__versions') }}

),

arrivals as (

    select * from {{ ref('int_items__arrivals') }}

),

catalogue as (

    select * from versions
    where is_current

),

seen as (

    select
        item_id,
        min(first_event_ts) as first_event_ts
    from arrivals
    group by item_id

),

final as (

    select
        coalesce(catalogue.item_id, seen.item_id) as item_id,
        catalogue.title,
        catalogue.description,
        catalogue.brand,
        catalogue.categories,
        catalogue.price,
        catalogue.attributes,
        catalogue.valid_from,
        seen.first_event_ts,
        catalogue.item_id is not null as has_metadata
    from catalogue
    full outer join seen
        on catalogue.item_id = seen.item_id

)

select * from final
