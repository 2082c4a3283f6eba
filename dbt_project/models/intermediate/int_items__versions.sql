{{ config(materialized='table') }}

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
        lead(valid_from) over (partition by item_id order by valid_from nulls first) as next_valid_from,
        min(valid_from) over (partition by item_id) as launched_at
    from ranked
    where rank_from_last = 1

),

-- Bounds without nulls: joins on them are plain comparisons, which an engine can hash, not conditions with "or",
-- for which it compares every event with every item.
bounded as (

    select
        *,
        coalesce(valid_from, {{ moment('0001-01-01') }}) as holds_from,
        coalesce(next_valid_from, {{ moment('9999-12-31') }}) as holds_to,
        next_valid_from is null as is_current
    from versions

),

final as (

    select
        item_id,
        title,
        description,
        brand,
        categories,
        category,
        price,
        attributes,
        valid_from,
        launched_at,
        holds_from,
        holds_to,
        is_current
    from bounded

)

select * from final
