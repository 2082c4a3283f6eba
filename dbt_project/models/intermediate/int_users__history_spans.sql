with

versions as (

    select * from {{ ref('int_users__history_versions') }}

),

contested as (

    select distinct
        user_id,
        item_id
    from {{ ref('int_users__history_versions') }}
    where takes_over

),

replaced as (

    select
        rivals.user_id,
        rivals.item_id,
        rivals.known_date,
        lead(rivals.known_date) over (
            partition by rivals.user_id, rivals.item_id
            order by rivals.known_date
        ) as known_until
    from {{ ref('int_users__history_versions') }} as rivals
    inner join contested
        on rivals.user_id = contested.user_id
        and rivals.item_id = contested.item_id

),

final as (

    select
        versions.user_id,
        versions.item_id,
        versions.event_type,
        versions.event_ts,
        versions.value,
        versions.arrival_date,
        versions.source_file,
        versions.source_row,
        versions.known_date,
        replaced.known_until
    from versions
    left join replaced
        on versions.user_id = replaced.user_id
        and versions.item_id = replaced.item_id
        and versions.known_date = replaced.known_date

)

select * from final
