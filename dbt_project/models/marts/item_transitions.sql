with

histories as (

    select * from {{ ref('user_histories') }}

),

steps as (

    select
        item_id,
        lead(item_id) over (partition by user_id order by position) as next_item_id
    from histories

),

final as (

    select
        item_id,
        next_item_id,
        count(*) as n
    from steps
    where next_item_id is not null
    group by item_id, next_item_id

)

select * from final
