select user_id
from {{ ref('user_histories') }}
group by user_id
having min(position) <> 1 or max(position) <> count(*)
