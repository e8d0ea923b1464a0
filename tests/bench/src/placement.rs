//! Keeps processes on chosen processors.

use anyhow::{Context, bail};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

use crate::args::Placement;
use crate::cpu;

/// The processors in use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processors {
    placement: Placement,
    near: usize,
    far: usize,
}

impl Processors {
    /// Chooses among the processors that this program may use, and moves it to the near one; what it starts follows.
    pub(crate) fn choose(placement: Placement) -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None).context("the allowed processors are not known")?;
        let mut free = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let near = free.next().context("no processor is allowed")?;
        let far = match placement {
            Placement::Same => near,
            Placement::Pair => match free.next() {
                Some(far) => far,
                None => bail!("--placement pair needs two processors, one is allowed"),
            },
        };
        sched_setaffinity(None, &only(near))
            .context("this program cannot be kept on a processor")?;
        Ok(Self {
            placement,
            near,
            far,
        })
    }

    /// Moves the processes of the server side to where they belong.
    pub(crate) fn move_far(self, pids: &[u32]) -> anyhow::Result<()> {
        if self.far == self.near {
            return Ok(());
        }
        for &pid in pids {
            for tid in cpu::threads(pid)? {
                let thread = i32::try_from(tid).ok().and_then(Pid::from_raw);
                sched_setaffinity(Some(thread.context("not a thread")?), &only(self.far))
                    .with_context(|| format!("thread {tid} of process {pid} cannot be moved"))?;
            }
        }
        Ok(())
    }

    /// What a reader of the numbers must know.
    pub(crate) fn describe(self) -> String {
        match self.placement {
            Placement::Same => format!("same: everything on processor {}", self.near),
            Placement::Pair => format!(
                "pair: load and client side on processor {}, server side and application on processor {}",
                self.near, self.far
            ),
        }
    }
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}
