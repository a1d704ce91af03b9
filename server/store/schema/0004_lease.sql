-- What is in hand is found by its status: there are only so many as there are workers, and an index of leases had to be
-- written at every claim, renewal and end.
DROP INDEX task_lease;
