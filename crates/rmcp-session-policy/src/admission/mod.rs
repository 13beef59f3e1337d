//! stub
use crate::context::ClientContext;
use tokio::time::{Duration, Instant};
#[async_trait::async_trait]
pub trait AdmissionPolicy: std::fmt::Debug + Send + Sync + 'static {
    async fn admit(&self, arrival: &Arrival<'_>) -> Result<Permit, Rejection>;
    fn peek(&self, _arrival: &Arrival<'_>) -> Result<(), Rejection> {
        Ok(())
    }
    fn validate(&self) -> Result<(), InvalidSetting> {
        Ok(())
    }
}
#[derive(Debug, Clone)]
pub struct InvalidSetting {
    pub setting: &'static str,
    pub value: String,
    pub remedy: String,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrivalKind {
    Create,
    Restore,
    Request,
}
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    now: Instant,
    kind: ArrivalKind,
    context: Option<&'a ClientContext>,
}
impl<'a> Arrival<'a> {
    pub fn new(now: Instant, kind: ArrivalKind) -> Self {
        Self { now, kind, context: None }
    }
    pub fn with_context(mut self, c: &'a ClientContext) -> Self {
        self.context = Some(c);
        self
    }
    pub fn now(&self) -> Instant {
        self.now
    }
    pub fn kind(&self) -> ArrivalKind {
        self.kind
    }
    pub fn context(&self) -> Option<&'a ClientContext> {
        self.context
    }
}
#[derive(Debug)]
pub struct Permit;
impl Permit {
    pub fn free() -> Self {
        Permit
    }
    pub fn commit(self) -> Lease {
        Lease
    }
}
#[derive(Debug)]
pub struct Lease;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    After(Duration),
    Unknown,
    Never,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionClass {
    Quota,
    Capacity,
    Overload,
    Backend,
}
#[derive(Debug, Clone)]
pub struct Rejection;
impl std::fmt::Display for Rejection {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}
impl Rejection {
    pub fn class(&self) -> RejectionClass {
        RejectionClass::Quota
    }
    pub fn retry(&self) -> Retry {
        Retry::Unknown
    }
}
