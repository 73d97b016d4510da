//! The region of requests that name none. The gateway may have to search for it when it starts.

use tokio::sync::watch;

use super::name::Region;

/// The region of requests that name none, once it is known.
#[derive(Clone, Debug)]
pub struct DefaultRegion(watch::Receiver<RegionSearch>);

/// The state of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionSearch {
    /// The search goes on.
    Running,
    /// The search has ended. None if there is no default region.
    Ended(Option<Region>),
}

/// Ends the search for a default region.
#[derive(Debug)]
pub struct EndSearch(watch::Sender<RegionSearch>);

impl DefaultRegion {
    /// A region that is searched for, and the handle that ends the search.
    #[must_use]
    pub fn searched() -> (EndSearch, Self) {
        let (sender, receiver) = watch::channel(RegionSearch::Running);
        (EndSearch(sender), Self(receiver))
    }

    /// The state of the search.
    #[must_use]
    pub fn get(&self) -> RegionSearch {
        self.0.borrow().clone()
    }

    /// Waits until the search has ended. Never returns if it is given up.
    pub async fn known(&mut self) {
        let ended = self.0.wait_for(|search| *search != RegionSearch::Running).await.is_ok();
        if !ended {
            std::future::pending::<()>().await;
        }
    }
}

impl From<Option<Region>> for DefaultRegion {
    fn from(region: Option<Region>) -> Self {
        Self(watch::channel(RegionSearch::Ended(region)).1)
    }
}

impl Default for DefaultRegion {
    fn default() -> Self {
        None.into()
    }
}

impl EndSearch {
    /// Ends the search with its result.
    pub fn end(self, region: Option<Region>) {
        self.0.send_replace(RegionSearch::Ended(region));
    }
}
