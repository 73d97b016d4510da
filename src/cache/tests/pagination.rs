//! Walks over all pages while the account changes: tasks start, appear late and end; other callers
//! ask, so that parts of the listing are known and first pages are read again; EC2 refuses old tokens.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::pure::{FEW, Story, bucket_name, step};
use crate::cache::query::Query;
use crate::domain::{TaskFilter, TaskStateKind};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, rng_seed: proptest::test_runner::RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariant 5 (docs/invariants.md): pages
    #[test]
    fn a_walk_returns_each_task_that_existed_throughout_exactly_once(
        past in proptest::collection::vec(step(), 1..20),
        meanwhile in proptest::collection::vec(proptest::collection::vec(step(), 0..3), 1..12),
        page_size in 1..9_usize,
        bucket in proptest::option::of(any::<bool>()),
        // What passes by one of these goes on to pass.
        ended in proptest::option::of(prop_oneof![
            Just(TaskStateKind::Completed),
            Just(TaskStateKind::Failed),
        ]),
    ) {
        let mut story = Story::new(FEW);
        for step in &past {
            story.live(step)?;
        }
        let filter = TaskFilter {
            buckets: bucket.map(bucket_name).into_iter().collect(),
            states: ended.into_iter().collect(),
            ..TaskFilter::default()
        };
        let throughout: Vec<_> =
            story.ec2.now().values().filter(|task| filter.matches(task)).cloned().collect();
        let mut last_was_deep_page = Vec::new();
        let mut between = meanwhile.iter();
        loop {
            let after = last_was_deep_page.last().cloned();
            let query = Query::Listing { filter: filter.clone(), after, count: page_size };
            story.ask(&query, 0)?;
            let page = story.reading(&query);
            prop_assert!(page.tasks.len() == page_size || !page.more, "{page:?}");
            last_was_deep_page.extend(page.tasks.iter().map(|task| task.key.clone()));
            if !page.more {
                break;
            }
            for step in between.next().into_iter().flatten() {
                story.live(step)?;
            }
        }
        let once: BTreeSet<_> = last_was_deep_page.iter().collect();
        prop_assert_eq!(once.len(), last_was_deep_page.len(), "a task came twice: {:?}", last_was_deep_page);
        for task in throughout {
            prop_assert!(once.contains(&task.key), "lost: {task:?}");
        }
    }
}
