with

items as (

    select * from {{ ref('stg_lake__items') }}

),

ranked as (

    select
        *,
        row_number() over (
            partition by item_id, valid_from
            order by source_file desc, source_row desc
        ) as rank_from_last
    from items

),

versions as (

    select
        item_id,
        title,
        description,
        brand,
        categories,
        {{ first_element('categories') }} as category,
        price,
        attributes,
        valid_from,
        lead(valid_from) over (partition by item_id order by valid_from nulls first) as valid_to,
        min(valid_from) over (partition by item_id) as launched_at
    from ranked
    where rank_from_last = 1

)

select * from versions
