//! What the projections need of a log: its end, its groups in order, its chained hash. The engine is one; tests have
//! another that can lose its tail.

use std::time::Duration;

use reprise_engine::{
    Result,
    engine::{Durable, Engine, Follower, Group},
    id::{ChainHash, Position},
};

use crate::rebuild::feed::Feed;

/// A log to fold.
pub trait Source: Send + Sync {
    /// The durable end.
    fn durable(&self) -> Durable;
    /// Chained hash after the group that ends at `position`, if one ends there.
    fn chain_at(&self, position: Position) -> Result<Option<ChainHash>>;
    /// Groups from the one that holds `from` on.
    fn follow(&self, from: Position) -> Result<Box<dyn Groups>>;
    /// Advisory wall-clock time, milliseconds since 1970.
    fn now_ms(&self) -> u64;
    /// The log as segments that may be read at once, if it can be read so.
    fn feed(&self) -> Option<&dyn Feed> {
        None
    }
}

/// Groups in order.
pub trait Groups: Send {
    /// The next group; `None` when `wait` passed without one or the log was closed.
    fn next(&mut self, wait: Duration) -> Result<Option<Group>>;
}

impl Source for Engine {
    fn durable(&self) -> Durable {
        Engine::durable(self)
    }

    fn chain_at(&self, position: Position) -> Result<Option<ChainHash>> {
        Engine::chain_at(self, position)
    }

    fn follow(&self, from: Position) -> Result<Box<dyn Groups>> {
        Ok(Box::new(Engine::follow(self, from)?))
    }

    fn now_ms(&self) -> u64 {
        self.clock().now_ms()
    }

    fn feed(&self) -> Option<&dyn Feed> {
        Some(self)
    }
}

impl Groups for Follower {
    fn next(&mut self, wait: Duration) -> Result<Option<Group>> {
        Follower::next(self, wait)
    }
}
