//! EC2's own limits, each with its unit and its source.

use std::time::Duration;

/// 31 days: how long after its start EC2 lists a task (API reference, `DescribeStoreImageTasks`:
/// "tasks of the last 31 days").
pub const TASK_LISTED_FOR: Duration = Duration::from_secs(31 * 24 * 3600);

/// 20 image IDs: the most that EC2 accepts in one call (API reference,
/// `DescribeStoreImageTasks`, `ImageId.N`).
pub const MAX_IMAGES_PER_CALL: usize = 20;

/// 200 tasks: the most that EC2 puts on a page (API model of the same action, `MaxResults`).
pub const MAX_TASKS_PER_CALL: u8 = 200;

/// 200 values: the most that all filters of one call may have together (EC2 API reference,
/// "Filtering": "up to 200 filter values in a single request").
pub const MAX_FILTER_VALUES: usize = 200;
