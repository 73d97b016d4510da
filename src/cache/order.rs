//! The orders in which tasks are kept, and how ranges of them are put together.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, binary_heap::PeekMut},
    marker::PhantomData,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::domain::{ImageId, StoreImageTask, TaskKey, TaskState, TaskStateKind};

/// Later than any task starts: some thousand years.
const FAR_FUTURE: Duration = Duration::from_secs(100_000_000_000);

/// An order of tasks.
pub(super) trait Order {
    fn compare(one: &StoreImageTask, two: &StoreImageTask) -> Ordering;
}

/// The listing's order.
#[derive(Clone, Debug)]
pub(super) struct ByTime;

/// By kind of state, then in the listing's order.
#[derive(Clone, Debug)]
pub(super) struct ByState;

/// By bucket and kind of state, then in the listing's order.
#[derive(Clone, Debug)]
pub(super) struct ByBucket;

/// By image, then in the listing's order.
#[derive(Clone, Debug)]
pub(super) struct ByImage;

impl Order for ByTime {
    fn compare(one: &StoreImageTask, two: &StoreImageTask) -> Ordering {
        one.key.cmp(&two.key)
    }
}

impl Order for ByState {
    fn compare(one: &StoreImageTask, two: &StoreImageTask) -> Ordering {
        kind_of(one).cmp(&kind_of(two)).then_with(|| one.key.cmp(&two.key))
    }
}

impl Order for ByBucket {
    fn compare(one: &StoreImageTask, two: &StoreImageTask) -> Ordering {
        let bucket = one.key.bucket.cmp(&two.key.bucket);
        bucket.then_with(|| ByState::compare(one, two))
    }
}

impl Order for ByImage {
    fn compare(one: &StoreImageTask, two: &StoreImageTask) -> Ordering {
        one.key.image_id.cmp(&two.key.image_id).then_with(|| one.key.cmp(&two.key))
    }
}

pub(super) fn kind_of(task: &StoreImageTask) -> Option<TaskStateKind> {
    TaskStateKind::of(&task.state)
}

/// A task that sorts by an order.
pub(super) struct Sorted<O>(Arc<StoreImageTask>, PhantomData<O>);

impl<O> Sorted<O> {
    pub(super) fn new(task: Arc<StoreImageTask>) -> Self {
        Self(task, PhantomData)
    }

    pub(super) fn task(&self) -> &Arc<StoreImageTask> {
        &self.0
    }
}

impl<O> Clone for Sorted<O> {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl<O> std::fmt::Debug for Sorted<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<O: Order> PartialEq for Sorted<O> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<O: Order> Eq for Sorted<O> {}

impl<O: Order> PartialOrd for Sorted<O> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<O: Order> Ord for Sorted<O> {
    fn cmp(&self, other: &Self) -> Ordering {
        #[cfg(test)]
        COMPARED.set(COMPARED.get() + 1);
        O::compare(&self.0, &other.0)
    }
}

#[cfg(test)]
thread_local! {
    /// Number of tasks that this thread has compared: the cost of looking for something.
    pub(super) static COMPARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A place in an order, to look from there on.
pub(super) fn place<O>(key: TaskKey, kind: Option<TaskStateKind>) -> Sorted<O> {
    let state = match kind {
        None => TaskState::Other("".into()),
        Some(TaskStateKind::InProgress) => TaskState::InProgress,
        Some(TaskStateKind::Completed) => TaskState::Completed,
        Some(TaskStateKind::Failed) => TaskState::Failed,
    };
    let object_key = key.bucket.clone();
    let task = StoreImageTask { key, object_key, state, progress: None, failure_reason: None };
    Sorted::new(Arc::new(task))
}

/// The place above all tasks.
pub(super) fn top() -> TaskKey {
    TaskKey {
        start_time: Reverse(SystemTime::UNIX_EPOCH + FAR_FUTURE),
        image_id: ImageId::FIRST,
        bucket: "".into(),
    }
}

/// Tasks of several ranges, put together in the listing's order.
pub(super) struct Merged<'a> {
    ranges: Vec<Range<'a>>,
    /// The next task of each range that has one.
    heads: BinaryHeap<Reverse<Head<'a>>>,
}

/// Tasks in the listing's order.
pub(super) type Range<'a> = Box<dyn Iterator<Item = &'a Arc<StoreImageTask>> + Send + 'a>;

/// The next task of a range.
struct Head<'a> {
    task: &'a Arc<StoreImageTask>,
    range: usize,
}

impl<'a> Merged<'a> {
    pub(super) fn of(mut ranges: Vec<Range<'a>>) -> Self {
        let mut heads = BinaryHeap::with_capacity(ranges.len());
        for (range, tasks) in ranges.iter_mut().enumerate() {
            if let Some(task) = tasks.next() {
                heads.push(Reverse(Head { task, range }));
            }
        }
        Self { ranges, heads }
    }
}

impl<'a> Iterator for Merged<'a> {
    type Item = &'a Arc<StoreImageTask>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut head = self.heads.peek_mut()?;
        let (task, range) = (head.0.task, head.0.range);
        match self.ranges[range].next() {
            Some(next) => head.0.task = next,
            None => drop(PeekMut::pop(head)),
        }
        Some(task)
    }
}

impl PartialEq for Head<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.task.key == other.task.key
    }
}

impl Eq for Head<'_> {}

impl PartialOrd for Head<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.task.key.cmp(&other.task.key)
    }
}
