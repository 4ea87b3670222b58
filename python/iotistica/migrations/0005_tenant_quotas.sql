-- What a tenant may send each second; NULL is the default of the settings.
ALTER TABLE tenants
    ADD COLUMN quota_messages_per_s double precision
        CONSTRAINT tenants_quota_messages_is_positive CHECK (quota_messages_per_s > 0),
    ADD COLUMN quota_readings_per_s double precision
        CONSTRAINT tenants_quota_readings_is_positive CHECK (quota_readings_per_s > 0),
    ADD COLUMN quota_bytes_per_s double precision
        CONSTRAINT tenants_quota_bytes_is_positive CHECK (quota_bytes_per_s > 0);
