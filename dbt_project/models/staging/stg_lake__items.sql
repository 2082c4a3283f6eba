with

source as (

    select * from {{ source('lake', 'items') }}

),

renamed as (

    select
        item_id,
        title,
        description,
        brand,
        categories,
        price,
        attributes,
        valid_from,
        source,
        source_file,
        source_row
    from source

)

select * from renamed
