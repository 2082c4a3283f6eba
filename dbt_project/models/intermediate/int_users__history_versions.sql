with

interactions as (

    select * from {{ ref('int_events__interactions') }}

),

ranked as (

    select
        *,
        row_number() over (partition by user_id order by {{ event_order() }}) as event_rank
    from interactions

),

-- Of the events of an item that become known on one day, only the earliest can be its first.
by_day as (

    select
        *,
        row_number() over (partition by user_id, item_id, known_date order by event_rank) as rank_of_day
    from ranked

),

compared as (

    select
        *,
        min(event_rank) over (
            partition by user_id, item_id
            order by known_date
            rows between unbounded preceding and 1 preceding
        ) as best_rank_before
    from by_day
    where rank_of_day = 1

),

-- What arrives late may turn out to be the first event of an item after all: it takes the place of the one that
-- was taken for it until then.
versions as (

    select
        user_id,
        item_id,
        event_type,
        event_ts,
        event_rank,
        known_date as known_from,
        lead(known_date) over (partition by user_id, item_id order by known_date) as known_until
    from compared
    where best_rank_before is null or event_rank < best_rank_before

)

select * from versions
