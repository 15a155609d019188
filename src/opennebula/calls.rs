//! What a run asks of a front-end.

use super::client::{Client, OneError, Recover, VmAction};
use super::document::{Datastore, Host, Image, User, Vm, Zone};
use async_trait::async_trait;

/// One front-end. Every call has a deadline.
#[async_trait(?Send)]
pub trait OpenNebula {
    /// The address, for messages.
    fn endpoint(&self) -> &str;
    /// The name of our user there.
    fn user_name(&self) -> &str;
    /// How far its clock is ahead of ours by its last answer, in seconds. `None`: it does not say.
    fn clock_ahead(&self) -> Option<i64>;
    /// One VM.
    async fn vm(&self, id: i32) -> Result<Vm, OneError>;
    /// All VMs but those that are DONE, with their disks.
    async fn vm_pool(&self) -> Result<Vec<Vm>, OneError>;
    /// All images.
    async fn image_pool(&self) -> Result<Vec<Image>, OneError>;
    /// One datastore.
    async fn datastore(&self, id: i32) -> Result<Datastore, OneError>;
    /// All datastores.
    async fn datastore_pool(&self) -> Result<Vec<Datastore>, OneError>;
    /// All hosts.
    async fn host_pool(&self) -> Result<Vec<Host>, OneError>;
    /// The zones.
    async fn zone_pool(&self) -> Result<Vec<Zone>, OneError>;
    /// Who asks.
    async fn own_user(&self) -> Result<User, OneError>;
    /// Its version.
    async fn system_version(&self) -> Result<String, OneError>;
    /// Starts, stops or releases a VM.
    async fn vm_action(&self, action: VmAction, id: i32) -> Result<(), OneError>;
    /// Tries again what failed.
    async fn vm_recover(&self, id: i32, operation: Recover) -> Result<(), OneError>;
    /// Adds attributes to a VM's user template, or replaces those of the same name.
    async fn vm_update_append(&self, id: i32, template: &str) -> Result<(), OneError>;
    /// Registers an image and gives its id.
    async fn image_allocate(&self, template: &str, datastore: i32) -> Result<i32, OneError>;
}

#[async_trait(?Send)]
impl OpenNebula for Client {
    fn endpoint(&self) -> &str {
        self.endpoint()
    }

    fn user_name(&self) -> &str {
        self.user_name()
    }

    fn clock_ahead(&self) -> Option<i64> {
        self.clock_ahead()
    }

    async fn vm(&self, id: i32) -> Result<Vm, OneError> {
        self.vm(id).await
    }

    async fn vm_pool(&self) -> Result<Vec<Vm>, OneError> {
        self.vm_pool().await
    }

    async fn image_pool(&self) -> Result<Vec<Image>, OneError> {
        self.image_pool().await
    }

    async fn datastore(&self, id: i32) -> Result<Datastore, OneError> {
        self.datastore(id).await
    }

    async fn datastore_pool(&self) -> Result<Vec<Datastore>, OneError> {
        self.datastore_pool().await
    }

    async fn host_pool(&self) -> Result<Vec<Host>, OneError> {
        self.host_pool().await
    }

    async fn zone_pool(&self) -> Result<Vec<Zone>, OneError> {
        self.zone_pool().await
    }

    async fn own_user(&self) -> Result<User, OneError> {
        self.own_user().await
    }

    async fn system_version(&self) -> Result<String, OneError> {
        self.system_version().await
    }

    async fn vm_action(&self, action: VmAction, id: i32) -> Result<(), OneError> {
        self.vm_action(action, id).await
    }

    async fn vm_recover(&self, id: i32, operation: Recover) -> Result<(), OneError> {
        self.vm_recover(id, operation).await
    }

    async fn vm_update_append(&self, id: i32, template: &str) -> Result<(), OneError> {
        self.vm_update_append(id, template).await
    }

    async fn image_allocate(&self, template: &str, datastore: i32) -> Result<i32, OneError> {
        self.image_allocate(template, datastore).await
    }
}
