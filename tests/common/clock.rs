//! A virtual clock: time passes when all futures wait for it.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::sync::oneshot;

/// Milliseconds since the start of a test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    now: u64,
    timers: BinaryHeap<Reverse<Timer>>,
    started: u64,
}

#[derive(Debug)]
struct Timer {
    at: (u64, u64),
    wake: oneshot::Sender<()>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Clock {
    pub(crate) fn now(&self) -> u64 {
        self.0.lock().unwrap().now
    }

    pub(crate) async fn sleep(&self, millis: u64) {
        let (wake, woken) = oneshot::channel();
        {
            let state = &mut *self.0.lock().unwrap();
            state.started += 1;
            state.timers.push(Reverse(Timer { at: (state.now + millis, state.started), wake }));
        }
        woken.await.unwrap();
    }

    /// Runs a future on this thread. When nothing but time can wake it, the next timer ends.
    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        // Deadlines need the clock of a runtime. None of them passes.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(woken.clone());
        let mut future = pin!(future);
        loop {
            while woken.0.swap(false, Ordering::SeqCst) {
                if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return output;
                }
            }
            let state = &mut *self.0.lock().unwrap();
            let Reverse(timer) = state.timers.pop().expect("all wait, but not for time");
            state.now = timer.at.0;
            // The future that waited may have been dropped.
            let _ = timer.wake.send(());
        }
    }
}
