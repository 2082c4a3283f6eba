with

interactions as (

    select * from {{ ref('int_events__interactions') }}

),

ranked as (

    select
        *,
        row_number() over (partition by user_id, item_id order by {{ event_order() }}) as occurrence
    from interactions

),

final as (

    select
        user_id,
        cast(row_number() over (partition by user_id order by {{ event_order() }}) as integer) as position,
        item_id,
        event_type,
        event_ts,
        value
    from ranked
    where occurrence = 1

)

select * from final
