with

events as (

    select * from {{ ref('fct_events') }}

),

final as (

    select
        user_id,
        min(event_ts) as first_event_ts,
        max(event_ts) as last_event_ts,
        count(*) as n_events,
        count(case when {{ is_interaction() }} then 1 end) as n_interactions
    from events
    group by user_id

)

select * from final
