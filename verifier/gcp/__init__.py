"""Confidential VMs at Google: `appraise.appraise_gcp` judges hardware report and shown vTPM.

Guarantees: the hardware report from configfs-tsm decides; without one the evidence is refused by
name. Does not take the host's vTPM for proof of anything: a good quote of it repairs nothing.
"""
