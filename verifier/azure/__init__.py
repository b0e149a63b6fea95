"""Confidential VMs in Azure: `appraise.appraise_azure` judges hardware, claims and vTPM together.

Guarantees: the TPM's key is believed only because the hardware report carries the hash of the
claims that name it. Does not identify the guest by the launch measurement, which covers Azure's
paravisor only: PCR values or the boot log do that.
"""
