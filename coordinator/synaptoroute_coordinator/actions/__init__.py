"""Actions of the coordinator on the log, on nodes and on backups.

executor      actions carried out against the log, under the lease
fleet_client  HTTP requests to the nodes
backups       snapshots kept in a backup store
backup_store  a folder, or a bucket of an S3-compatible store
audit_log     actor, action, time and outcome
"""
