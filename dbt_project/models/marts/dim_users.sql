with

arrivals as (

    select * from {{ ref('int_users__arrivals') }}

),

final as (

    select
        user_id,
        min(first_event_ts) as first_event_ts,
        max(last_event_ts) as last_event_ts,
        cast(sum(events) as bigint) as n_events,
        cast(sum(interactions) as bigint) as n_interactions
    from arrivals
    group by user_id

)

select * from final
