with

source as (

    select * from {{ source('lake', 'events') }}

),

renamed as (

    select
        event_id,
        user_id,
        item_id,
        event_type,
        event_ts,
        {{ utc_date('event_ts') }} as event_date,
        session_id,
        value,
        query,
        position,
        -- The folder's day, not the column that repeats it: filters on it leave the other days' files closed.
        cast(day as date) as arrival_date,
        source,
        source_file,
        source_row
    from source

)

select * from renamed
