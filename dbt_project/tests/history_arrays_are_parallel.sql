select
    user_id,
    event_timestamp
from {{ ref('ftr_user__history') }}
where {{ redone('event_timestamp') }} and (
    {{ array_length('recent_items') }} <> least(history_length, {{ var('history_length') }})
    or {{ array_length('recent_types') }} <> {{ array_length('recent_items') }}
    or {{ array_length('recent_ts') }} <> {{ array_length('recent_items') }}
)
