//! [`GoesOn`]: a future that goes on, on a task of its own, when the task that waits for it does not wait any longer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;

/// A future that is polled in place. If it is dropped before its end, the rest runs on a task of its own.
pub(super) struct GoesOn<F, R>
where
    F: Future<Output: Send> + Send + 'static,
    R: Fn() -> Option<Handle>,
{
    future: Option<Pin<Box<F>>>,
    /// Where the rest runs. Without a runtime it is dropped.
    runtime: R,
}

impl<F, R> GoesOn<F, R>
where
    F: Future<Output: Send> + Send + 'static,
    R: Fn() -> Option<Handle>,
{
    pub(super) fn new(future: F, runtime: R) -> Self {
        Self { future: Some(Box::pin(future)), runtime }
    }
}

impl<F, R> Future for GoesOn<F, R>
where
    F: Future<Output: Send> + Send + 'static,
    R: Fn() -> Option<Handle> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let output = ready!(future.as_mut().poll(cx));
        self.future = None;
        Poll::Ready(output)
    }
}

impl<F, R> Drop for GoesOn<F, R>
where
    F: Future<Output: Send> + Send + 'static,
    R: Fn() -> Option<Handle>,
{
    fn drop(&mut self) {
        if let Some(future) = self.future.take()
            && let Some(runtime) = (self.runtime)()
        {
            drop(runtime.spawn(future));
        }
    }
}
