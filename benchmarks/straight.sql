-- The marts as one person would write them for DuckDB in one sitting: no tests, no windows, no export. LAKE stands for the lake.

create table fct_events as
select
    event_id, user_id, item_id, event_type, event_ts, cast(event_ts at time zone 'UTC' as date) as event_date, session_id,
    value, query, position, cast(day as date) as arrival_date, source, source_file, source_row
from read_parquet('LAKE/events/day=*/events.parquet', hive_partitioning = true)
qualify row_number() over (partition by event_id order by day, source_file, source_row) = 1;

create table item_versions as
select
    item_id, title, description, brand, categories, categories[1] as category, price, attributes, valid_from,
    min(valid_from) over (partition by item_id) as launched_at,
    coalesce(valid_from, timestamptz '0001-01-01 00:00:00+00') as holds_from,
    coalesce(lead(valid_from) over (partition by item_id order by valid_from nulls first), timestamptz '9999-12-31 00:00:00+00') as holds_to
from (
    select * from read_parquet('LAKE/items/items.parquet')
    qualify row_number() over (partition by item_id, valid_from order by source_file desc, source_row desc) = 1
);

create macro chosen(type) as type in ('view', 'cart', 'purchase');

create table item_daily as
select
    item_id, event_date,
    count(*) filter (event_type = 'impression') as impressions,
    count(*) filter (event_type = 'view') as views,
    count(*) filter (event_type = 'click') as clicks,
    count(*) filter (event_type = 'cart') as carts,
    count(*) filter (event_type = 'purchase') as purchases,
    count(*) filter (event_type = 'rating') as ratings,
    count(*) filter (event_type not in ('impression', 'view', 'click', 'cart', 'purchase', 'rating')) as other,
    count(*) filter (chosen(event_type)) as interactions,
    count(distinct user_id) filter (chosen(event_type)) as users,
    cast(sum(cast(value as decimal(38, 9))) as double) as value_sum
from fct_events where item_id is not null group by all;

create table user_daily as
select
    user_id, event_date,
    count(*) filter (event_type = 'impression') as impressions,
    count(*) filter (event_type = 'view') as views,
    count(*) filter (event_type = 'click') as clicks,
    count(*) filter (event_type = 'cart') as carts,
    count(*) filter (event_type = 'purchase') as purchases,
    count(*) filter (event_type = 'rating') as ratings,
    count(*) filter (event_type not in ('impression', 'view', 'click', 'cart', 'purchase', 'rating')) as other,
    count(*) filter (item_id is not null and chosen(event_type)) as interactions,
    count(distinct item_id) filter (chosen(event_type)) as items,
    count(distinct session_id) as sessions
from fct_events group by all;

create table dim_users as
select
    user_id, min(event_ts) as first_event_ts, max(event_ts) as last_event_ts, count(*) as n_events,
    count(*) filter (item_id is not null and chosen(event_type)) as n_interactions
from fct_events group by all;

create table dim_items as
select
    item_id, v.title, v.description, v.brand, v.categories, v.price, v.attributes, v.valid_from, s.first_event_ts,
    v.holds_to is not null as has_metadata
from (select * from item_versions where holds_to = timestamptz '9999-12-31 00:00:00+00') as v
full join (select item_id, min(event_ts) as first_event_ts from fct_events where item_id is not null group by all) as s using (item_id);

create table interactions as
select
    e.user_id, e.item_id, e.event_type, e.event_ts, e.event_date, e.value, greatest(e.arrival_date, e.event_date) as known_date,
    v.category, cast(v.price as decimal(38, 9)) as price,
    row_number() over (partition by e.user_id order by e.event_ts, e.arrival_date, e.source_file, e.source_row) as place
from fct_events as e
left join item_versions as v on e.item_id = v.item_id and e.event_ts >= v.holds_from and e.event_ts < v.holds_to
where e.item_id is not null and chosen(e.event_type);

create table user_histories as
select user_id, cast(row_number() over (partition by user_id order by place) as integer) as position, item_id, event_type, event_ts, value, known_date
from (select * from interactions qualify row_number() over (partition by user_id, item_id order by place) = 1);

create table item_transitions as
select item_id, next_item_id, count(*) as n
from (select item_id, lead(item_id) over (partition by user_id order by position) as next_item_id from user_histories)
where next_item_id is not null group by all;

create table user_cells as
select
    user_id, event_date, known_date, sum(events) as events, sum(views) as views, sum(carts) as carts, sum(purchases) as purchases,
    min(first_event_ts) as first_event_ts, sum(interactions) as interactions, sum(priced) as priced,
    sum(price_sum) as price_sum, max(last_interaction_ts) as last_interaction_ts
from (
    select
        user_id, event_date, greatest(arrival_date, event_date) as known_date, count(*) as events,
        count(*) filter (event_type = 'view') as views, count(*) filter (event_type = 'cart') as carts,
        count(*) filter (event_type = 'purchase') as purchases, min(event_ts) as first_event_ts, 0 as interactions, 0 as priced,
        cast(0 as decimal(38, 9)) as price_sum, cast(null as timestamptz) as last_interaction_ts
    from fct_events group by all
    union all
    select user_id, event_date, known_date, 0, 0, 0, 0, null, count(*), count(price), coalesce(sum(price), 0), max(event_ts)
    from interactions group by all
) group by all;

create table ftr_user__activity as
with moves as (
    select user_id, known_date as day,
        if(event_date + 1 > known_date, events, 0) as e1, if(event_date + 7 > known_date, events, 0) as e7,
        if(event_date + 7 > known_date, interactions, 0) as i7, if(event_date + 30 > known_date, interactions, 0) as i30,
        if(event_date + 30 > known_date, views, 0) as v30, if(event_date + 30 > known_date, carts, 0) as c30,
        if(event_date + 30 > known_date, purchases, 0) as p30, if(event_date + 30 > known_date, priced, 0) as n30,
        if(event_date + 30 > known_date, price_sum, 0) as s30
    from user_cells
    union all select user_id, event_date + 1, -events, 0, 0, 0, 0, 0, 0, 0, 0 from user_cells where event_date + 1 > known_date
    union all select user_id, event_date + 7, 0, -events, -interactions, 0, 0, 0, 0, 0, 0 from user_cells where event_date + 7 > known_date
    union all select user_id, event_date + 30, 0, 0, 0, -interactions, -views, -carts, -purchases, -priced, -price_sum
    from user_cells where event_date + 30 > known_date
),
sums as (
    select user_id, day, sum(e1) as e1, sum(e7) as e7, sum(i7) as i7, sum(i30) as i30, sum(v30) as v30, sum(c30) as c30,
        sum(p30) as p30, sum(n30) as n30, sum(s30) as s30
    from moves group by all
),
rolling as (
    select user_id, day, sum(e1) over w as e1, sum(e7) over w as e7, sum(i7) over w as i7, sum(i30) over w as i30, sum(v30) over w as v30,
        sum(c30) over w as c30, sum(p30) over w as p30, sum(n30) over w as n30, sum(s30) over w as s30
    from sums window w as (partition by user_id order by day)
),
liked as (
    select user_id, category, known_date, sum(count(*)) over (partition by user_id, category order by known_date) as n
    from interactions where category is not null group by user_id, category, known_date
),
leaders as (
    select user_id, known_date, n, min(category) as category
    from (select *, max(n) over (partition by user_id order by known_date) as best from liked) where n = best group by all
),
favourites as (
    select user_id, known_date, min(category) over (partition by user_id, n order by known_date) as favourite_category from leaders
),
days as (
    select user_id, known_date, min(first_event_ts) as first_event_ts, max(last_interaction_ts) as last_interaction_ts
    from user_cells group by all
),
known as (
    select d.user_id, d.known_date, cast(d.known_date + 1 as timestamp) at time zone 'UTC' as known_at,
        min(first_event_ts) over w as first_event_ts, max(last_interaction_ts) over w as last_interaction_ts,
        last_value(favourite_category ignore nulls) over w as favourite_category
    from days as d left join favourites as f on d.user_id = f.user_id and d.known_date = f.known_date
    window w as (partition by d.user_id order by d.known_date)
)
select k.user_id, known_at as event_timestamp, known_at as created_timestamp, cast(e1 as bigint) as events_1d, cast(e7 as bigint) as events_7d,
    cast(i7 as bigint) as interactions_7d, cast(i30 as bigint) as interactions_30d, cast(v30 as bigint) as views_30d, cast(c30 as bigint) as carts_30d,
    cast(p30 as bigint) as purchases_30d, (epoch_us(known_at) - epoch_us(last_interaction_ts)) / 86400000000.0 as days_since_last,
    (epoch_us(known_at) - epoch_us(first_event_ts)) / 86400000000.0 as tenure_days, favourite_category,
    cast(s30 as double) / nullif(n30, 0) as mean_price_30d
from known as k join rolling as r on k.user_id = r.user_id and k.known_date = r.day;

create table ftr_user__history as
with firsts as (
    select *, min(place) over (partition by user_id, item_id order by known_date rows between unbounded preceding and 1 preceding) as best
    from (select * from interactions qualify row_number() over (partition by user_id, item_id, known_date order by place) = 1)
),
versions as (
    select *, lead(known_date) over (partition by user_id, item_id order by known_date) as known_until
    from firsts where best is null or place < best
),
lists as (
    select user_id, list_sort(list(
        {'place': place, 'item': item_id, 'type': event_type, 'ts': epoch_ms(event_ts), 'since': known_date, 'until': known_until}
    )) as l
    from versions group by all
),
known as (
    select d.user_id, d.known_date, list_filter(l, lambda x: x.since <= d.known_date and (x.until is null or x.until > d.known_date)) as l
    from (select distinct user_id, known_date from user_cells) as d left join lists on d.user_id = lists.user_id
),
recent as (select user_id, cast(known_date + 1 as timestamp) at time zone 'UTC' as known_at, len(l) as n, l[-50:] as l from known)
select user_id, known_at as event_timestamp, known_at as created_timestamp,
    coalesce(list_transform(l, lambda x: x.item), cast([] as varchar[])) as recent_items,
    coalesce(list_transform(l, lambda x: x.type), cast([] as varchar[])) as recent_types,
    coalesce(list_transform(l, lambda x: x.ts), cast([] as bigint[])) as recent_ts, coalesce(n, 0) as history_length
from recent;

create table ftr_item__stats as
with cells as (
    select item_id, event_date, greatest(arrival_date, event_date) as known_date,
        count(*) filter (event_type = 'impression') as impressions, count(*) filter (event_type = 'view') as views,
        count(*) filter (event_type = 'purchase') as purchases, count(*) filter (chosen(event_type)) as interactions, min(event_ts) as first_event_ts
    from fct_events where item_id is not null group by all
),
moves as (
    select item_id, known_date as day, if(event_date + 7 > known_date, impressions, 0) as m7, if(event_date + 7 > known_date, views, 0) as v7,
        if(event_date + 7 > known_date, interactions, 0) as i7, if(event_date + 30 > known_date, views, 0) as v30,
        if(event_date + 30 > known_date, interactions, 0) as i30, if(event_date + 30 > known_date, purchases, 0) as p30
    from cells
    union all select item_id, event_date + 7, -impressions, -views, -interactions, 0, 0, 0 from cells where event_date + 7 > known_date
    union all select item_id, event_date + 30, 0, 0, 0, -views, -interactions, -purchases from cells where event_date + 30 > known_date
),
sums as (
    select item_id, day, sum(m7) as m7, sum(v7) as v7, sum(i7) as i7, sum(v30) as v30, sum(i30) as i30, sum(p30) as p30 from moves group by all
),
spans as (
    select item_id, user_id, known_date as starts, max(event_date + 30) as ends
    from interactions where event_date + 30 > known_date group by all
),
stays as (
    select item_id, min(starts) as starts, max(ends) as ends
    from (
        select *, sum(if(starts <= before, 0, 1)) over (partition by item_id, user_id order by starts) as stay
        from (select *, max(ends) over (partition by item_id, user_id order by starts rows between unbounded preceding and 1 preceding) as before from spans)
    ) group by item_id, user_id, stay
),
audience as (
    select item_id, day, sum(n) as n
    from (select item_id, starts as day, 1 as n from stays union all select item_id, ends, -1 from stays) group by all
),
rolling as (
    select item_id, day, sum(m7) over w as m7, sum(v7) over w as v7, sum(i7) over w as i7, sum(v30) over w as v30, sum(i30) over w as i30,
        sum(p30) over w as p30, sum(coalesce(audience.n, 0)) over w as users
    from sums left join audience using (item_id, day) window w as (partition by item_id order by day)
),
known as (
    select item_id, known_date, cast(known_date + 1 as timestamp) at time zone 'UTC' as known_at,
        min(min(first_event_ts)) over (partition by item_id order by known_date) as first_event_ts
    from cells group by item_id, known_date
)
select k.item_id, known_at as event_timestamp, known_at as created_timestamp, cast(m7 as bigint) as impressions_7d, cast(v7 as bigint) as views_7d,
    cast(i7 as bigint) as interactions_7d, cast(i30 as bigint) as interactions_30d, cast(p30 as bigint) as purchases_30d, cast(users as bigint) as users_30d,
    cast(p30 as double) / nullif(v30, 0) as conversion_30d,
    (epoch_us(known_at) - epoch_us(least(k.first_event_ts, coalesce(launched_at, k.first_event_ts)))) / 86400000000.0 as age_days, price
from known as k join rolling as r on k.item_id = r.item_id and k.known_date = r.day
left join item_versions as v on k.item_id = v.item_id and known_at > v.holds_from and known_at <= v.holds_to;
