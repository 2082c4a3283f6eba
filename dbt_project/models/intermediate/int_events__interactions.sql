with

events as (

    select * from {{ ref('fct_events') }}

),

interactions as (

    select
        event_id,
        user_id,
        item_id,
        event_type,
        event_ts,
        event_date,
        value,
        arrival_date,
        {{ known_date() }} as known_date,
        source_file,
        source_row
    from events
    where {{ is_interaction() }}

)

select * from interactions
