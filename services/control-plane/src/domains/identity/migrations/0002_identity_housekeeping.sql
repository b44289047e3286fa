-- Who has a project as default is asked when the project ends, and who once was a member when they come back.
CREATE INDEX users_by_default_project ON users (default_project_id) WHERE default_project_id IS NOT NULL;
CREATE INDEX tenant_memberships_history ON tenant_memberships (user_id, tenant_id);

-- Old tokens go by age. A parent may go before its successor: the link only matters while both can be presented.
ALTER TABLE refresh_tokens DROP CONSTRAINT refresh_tokens_parent_id_fkey;
CREATE INDEX refresh_tokens_age ON refresh_tokens (issued_at);
CREATE INDEX sessions_age ON sessions (expires_at);
