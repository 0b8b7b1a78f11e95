//! Seeded simulation (T7, T8): one thread plays writers, readers, the projector, rebuilds and an unkind machine, as dice say.
//!
//! Invariants: everything that happens follows from the seed, so the same seed gives the same trace, byte for byte; the model
//! knows for every proposal whether it is sent, acknowledged or unknown, and predicts every answer without the engine's code;
//! a run returns what is wrong as text, with the end of its trace; at the end all faults stop and everything is compared.

mod dice;
mod index;
mod life;
mod model;
mod writers;

pub use self::dice::Dice;
use self::{index::Index, life::Life, model::Model};

/// What one seed saw.
#[derive(Default, Debug)]
pub struct Story {
    /// One line per step.
    pub trace: String,
    /// How often things happened.
    pub counts: Counts,
}

/// How often things happened: a simulation in which something never happens proves nothing about it.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Proposals answered with a new place in the log.
    pub acknowledged: u64,
    /// Answered with the place they had already.
    pub repeated: u64,
    /// Refused because a condition did not hold.
    pub refused: u64,
    /// Not appended because the machine was in trouble.
    pub hindered: u64,
    /// Not known when answered.
    pub unknown: u64,
    /// Of those, found in the log afterwards.
    pub happened: u64,
    /// Groups of more than one proposal.
    pub groups: u64,
    /// Faults that had an effect.
    pub faults: u64,
    /// Power losses and kills.
    pub crashes: u64,
    /// Openings that were refused and tried again.
    pub reopened: u64,
    /// Clean shutdowns.
    pub shutdowns: u64,
    /// Rebuilds that ended, and took over.
    pub rebuilds: u64,
    /// Events that readers were given.
    pub read: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        let pairs = self.each().into_iter().zip(other.clone().each().map(|more| *more));
        pairs.for_each(|(sum, more)| *sum += more);
    }

    /// Every number.
    pub fn each(&mut self) -> [&mut u64; 13] {
        let Counts { acknowledged, repeated, refused, hindered, unknown, happened, groups, .. } = self;
        let Counts { faults, crashes, reopened, shutdowns, rebuilds, read, .. } = self;
        [
            acknowledged,
            repeated,
            refused,
            hindered,
            unknown,
            happened,
            groups,
            faults,
            crashes,
            reopened,
            shutdowns,
            rebuilds,
            read,
        ]
    }
}

/// Plays one seed. The error says what is wrong and how it came to that.
pub fn simulate(seed: u64) -> Result<Story, String> {
    let mut world = World {
        dice: Dice::new(seed),
        life: Life::new(),
        model: Model::default(),
        index: Index::new(),
        story: Story::default(),
        pushes: 0,
    };
    let played = world.play();
    let Story { trace, .. } = &world.story;
    match played {
        Ok(()) => Ok(world.story),
        Err(wrong) => Err(format!("seed {seed}: {wrong}\n{}", tail(trace))),
    }
}

/// Everything there is.
struct World {
    dice: Dice,
    life: Life,
    model: Model,
    index: Index,
    story: Story,
    /// Push ids given out.
    pushes: u64,
}

impl World {
    fn play(&mut self) -> Result<(), String> {
        self.open()?;
        for number in 0..self.dice.between(40, 160) {
            let step = self.step();
            let calls = self.life.disk.calls();
            let line = match &step {
                Ok(line) => line,
                Err(wrong) => wrong,
            };
            self.note(&format!("{number:>4} {line} ({calls} calls)"));
            step?;
            if self.life.machine_stopped() {
                let line = self.power_loss()?;
                self.note(&format!("     the machine stopped: {line}"));
            }
        }
        self.finish()
    }

    fn note(&mut self, line: &str) {
        self.story.trace.push_str(line);
        self.story.trace.push('\n');
    }

    /// One thing that dice choose.
    fn step(&mut self) -> Result<String, String> {
        match self.dice.below(100) {
            0..=33 => self.propose_one(),
            34..=43 => self.propose_group(),
            44..=53 => self.push_pack(),
            54..=60 => self.propose_again(),
            61..=70 => self.read_on(),
            71..=80 => self.index.fold_some(&self.life, &self.dice),
            81..=83 => self.index.flush(),
            84..=86 => self.rebuild(),
            87..=88 => Ok(self.life.jump_clock(&self.dice)),
            89..=94 => Ok(self.life.plan_fault(&self.dice)),
            95 => self.shut_down(),
            96..=97 => self.kill(),
            _ => self.power_loss(),
        }
    }

    /// No more faults: one more restart, then everything must be there and everything must agree.
    fn finish(&mut self) -> Result<(), String> {
        self.life.no_more_faults();
        let line = self.power_loss()?;
        self.note(&format!("last: {line}"));
        self.propose_one()?;
        self.check_everything()?;
        self.shut_down()?;
        self.check_everything()?;
        self.note(&format!("end: {} {:?}", self.life.fingerprint(), self.story.counts));
        Ok(())
    }

    fn check_everything(&mut self) -> Result<(), String> {
        let engine = self.life.engine()?;
        self.model.check_log(&engine)?;
        self.model.check_packs(&engine)?;
        self.index.catch_up(&engine)?;
        self.index.check(&engine, &self.model)
    }
}

/// The last lines.
fn tail(trace: &str) -> &str {
    let start = trace.rmatch_indices('\n').nth(TOLD_LINES).map_or(0, |(at, _)| at + 1);
    &trace[start..]
}

const TOLD_LINES: usize = 40;
