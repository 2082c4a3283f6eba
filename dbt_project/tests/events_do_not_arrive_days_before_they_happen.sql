-- What became known in a window is looked for among the events that arrived from its eve on, which is right only as
-- long as this holds.
select
    event_id,
    event_ts,
    arrival_date
from {{ ref('fct_events') }}
where
    event_date > {{ add_days('arrival_date', 1) }}
    and {{ redone('event_date') }}
